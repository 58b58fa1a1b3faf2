"""Files on disk: annotations, features, detections, data folders."""
