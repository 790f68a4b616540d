/** Loads the models and connects the parts of the playground. */
