"""Sessions: the pictures of each in a folder, its recordings at a worker's table, its edits as work of a job."""
