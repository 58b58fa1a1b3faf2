"""Everything after the network: localization, the files of the field, and mAP."""
