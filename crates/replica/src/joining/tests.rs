//! What follows from invitations and requests to be taken in.
