"""Sessions: edit after edit of one picture, each on the recordings of the ones before."""
