"""Files on disk: annotations, detections, features, data folders. Independent of the method; needs no torch."""
