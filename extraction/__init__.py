"""From video files to a data folder of snippet features: frames, flow, I3D. It knows nothing of AICL."""
import os

# Threads of torch that wait for each other sleep, if torch is not there yet: the cores are busy with optical flow.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
