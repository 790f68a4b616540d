"""Networks: from noise to images, from images to images, and the layers they share.

They know shapes but no losses. `options` tells how a network becomes available to recipes.
"""
