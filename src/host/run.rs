//! External programs, run with a deadline.
