# @summary The name of a list of endpoints: the stem of its file. Schedules and segments refer to it as `@NAME`.
type Picoseg::Listname = Pattern[/\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z/]
