"""Networks, hierarchies and compressions as folders of the hub of Hugging Face."""
