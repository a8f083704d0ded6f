"""Reading and writing of images, points, transforms and folders, with the conversion between LPS
and RAS.
"""
