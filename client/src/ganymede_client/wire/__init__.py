"""Requests and responses: values to JSON and files, responses to images and records."""
