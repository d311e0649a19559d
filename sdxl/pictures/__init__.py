"""Pictures and masks: read strictly, written whole, put together."""
