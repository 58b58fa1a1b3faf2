"""A headless Chromium, controlled with its DevTools protocol over a pipe: no package and no open port is needed."""
import base64
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

TIMEOUT = 60  # seconds
NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
         '--hide-scrollbars', '--disable-background-networking', '--disable-component-update', '--disable-sync',
         '--disable-quic', '--remote-debugging-pipe')


def find_browser() -> str | None:
    """Return the path of a Chromium, None if none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. `errors` collects uncaught errors, console errors and violations of the security policy."""

    def __init__(self, executable: str, folder: Path):
        commands, self.out = os.pipe()
        self.answers, results = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4; messages end with a zero byte.
        redirect, devnull = f'exec "$0" "$@" 3<&{commands} 4>&{results}', subprocess.DEVNULL
        self.process = subprocess.Popen(
            ['bash', '-c', redirect, executable, *FLAGS, f'--user-data-dir={folder}', 'about:blank'],
            pass_fds=(commands, results), stdin=devnull, stdout=devnull, stderr=devnull)
        os.close(commands)
        os.close(results)
        self.buffer, self.number, self.session, self.errors, self.requests = b'', 0, None, [], []
        target = next(t for t in self.send('Target.getTargets')['targetInfos'] if t['type'] == 'page')
        self.session = self.send('Target.attachToTarget', targetId=target['targetId'], flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.send(f'{domain}.enable')

    def send(self, method: str, **parameters: Any) -> dict:
        """Send one command and return its result."""
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': parameters}
        if self.session:
            message['sessionId'] = self.session
        os.write(self.out, json.dumps(message).encode() + b'\0')
        while (answer := self.receive()).get('id') != self.number:
            pass
        assert 'error' not in answer, answer['error']
        return answer['result']

    def receive(self) -> dict:
        """Return the next message; errors and requests are recorded."""
        while b'\0' not in self.buffer:
            assert select.select([self.answers], [], [], TIMEOUT)[0], f'no answer of the browser within {TIMEOUT} s'
            chunk = os.read(self.answers, 1 << 20)
            assert chunk, 'the browser exited'
            self.buffer += chunk
        raw, _, self.buffer = self.buffer.partition(b'\0')
        message = json.loads(raw)
        method, parameters = message.get('method'), message.get('params', {})
        if method == 'Runtime.exceptionThrown':
            self.errors.append(parameters['exceptionDetails'].get('exception', {}).get('description', 'exception'))
        elif method == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'warning', 'assert'):
            self.errors.append(str(parameters['args']))
        elif method == 'Log.entryAdded' and parameters['entry']['level'] == 'error':
            self.errors.append(parameters['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(parameters['request']['url'])
        return message

    def open(self, path: Path, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Open a file in a window of that size and wait until it is loaded."""
        self.send('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.send('Emulation.setEmulatedMedia', features=[scheme])
        self.errors.clear()
        self.requests.clear()
        self.send('Page.navigate', url=path.resolve().as_uri())
        while self.receive().get('method') != 'Page.loadEventFired':
            pass

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.send('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {'text': key} if len(key) == 1 else {}
        self.send('Input.dispatchKeyEvent', type='keyDown', key=key, **text)
        self.send('Input.dispatchKeyEvent', type='keyUp', key=key)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move ('mouseMoved'), press ('mousePressed') or release ('mouseReleased') the mouse at a point."""
        self.send('Input.dispatchMouseEvent', type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the visible part of the page."""
        path.write_bytes(base64.b64decode(self.send('Page.captureScreenshot', format='png')['data']))

    def close(self) -> None:
        """Close the browser."""
        try:
            self.session = None
            self.send('Browser.close')
            self.process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.answers)
