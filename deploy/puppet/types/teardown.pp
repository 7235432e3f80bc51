# @summary How long a decommissioned provider stays refused and watched.
type Picoseg::Teardown = Struct[{
  'watch' => Variant[Enum['forever'], Picoseg::Duration],
}]
