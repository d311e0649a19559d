"""Pictures and masks: reading them strictly, writing them whole, and putting them together."""
