"""The ground floor: what every room uses and none of them owns. It imports no room."""
