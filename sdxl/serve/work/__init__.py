"""Work: jobs wait in a fair queue; a worker, one thread for each device, does them with its pipelines."""
