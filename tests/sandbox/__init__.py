"""The sandbox: engine, plugins, upstream stand-ins, host: a whole small world."""
