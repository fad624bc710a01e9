"""Modules: trained networks as Reusable SavedModels, published in a hub on disk."""
