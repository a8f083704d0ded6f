"""Reading and writing of images, points, transforms and folders; LPS becomes RAS here."""
