"""Running models, float or compiled, and comparing what they give."""
