"""Images: published data sets, folders and archives of one's own."""
