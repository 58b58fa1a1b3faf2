"""From video files to a data folder of snippet features: frames, optical flow, I3D. Independent of the method."""
import os

# Idle threads of torch sleep instead of spinning: the cores are busy with optical flow. Set before torch is imported.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
