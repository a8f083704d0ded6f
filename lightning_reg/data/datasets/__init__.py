"""Where scans come from: data sets, their splits, and the forms they are kept in."""
