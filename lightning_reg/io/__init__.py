"""Images, points, transforms and folders as files: the only place that knows LPS from RAS."""
