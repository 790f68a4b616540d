"""Networks: from noise to images, from images to images, of text, and the layers they share.

Networks do not depend on losses. `options` describes how to make a network available to recipes.
"""
