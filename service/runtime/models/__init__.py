"""Model folders: manifest, catalog, loaded models, golden images, memory budget, file watcher."""
