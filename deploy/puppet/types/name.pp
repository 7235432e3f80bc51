# @summary The name of a service or a segment: the stem of its file.
type Picoseg::Name = Pattern[/\A[a-z0-9][a-z0-9-]{0,62}\z/]
