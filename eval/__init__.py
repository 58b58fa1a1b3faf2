"""Localization, mAP, error diagnosis, and reports, figures and exports of detections."""
