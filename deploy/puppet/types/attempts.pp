# @summary `[attempts]` of picoseg.toml.
type Picoseg::Attempts = Struct[{
  Optional['log_group'] => Integer[1, 65535],
  Optional['log_rate']  => Pattern[/\A[0-9]+\/second\z/],
  Optional['retain']    => Picoseg::Duration,
}]
