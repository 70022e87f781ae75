"""edgesteer.serve: an HTTP server with OpenAI's interface, where each request carries its own steering."""
