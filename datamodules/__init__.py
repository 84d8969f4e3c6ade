"""LightningDataModules: data sets that the models train on."""
