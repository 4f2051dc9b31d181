"""Stands here so that helper modules of this folder can be imported from every test below it."""
