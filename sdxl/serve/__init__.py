"""The server: HTTP requests become edit requests, wait their turn, and run in one thread for each device."""
