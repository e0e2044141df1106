"""The sandbox's host: Docker Engine, service images, background processes, the whole world."""
