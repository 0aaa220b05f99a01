"""Everything that knows Lightning: loops over images, their writers, loggers."""
