# @summary `[enforcement]` of picoseg.toml.
type Picoseg::Enforcement = Struct[{
  Optional['mode']            => Enum['enforce', 'observe'],
  Optional['table']           => Pattern[/\A[A-Za-z][A-Za-z0-9_-]{0,30}\z/],
  Optional['priority']        => Integer[-400, 400],
  Optional['egress_refusal']  => Enum['reject', 'drop'],
  Optional['ingress_refusal'] => Enum['reject', 'drop'],
  Optional['arm_ahead']       => Picoseg::Duration,
  Optional['protect']         => Boolean,
}]
