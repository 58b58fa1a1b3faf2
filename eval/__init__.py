"""What follows the network: localization, mAP, error diagnosis, figures and other views of detections."""
