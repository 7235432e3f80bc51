# @summary From when until when a service can be open at all. Nothing is open-ended.
type Picoseg::Lifetime = Struct[{
  'commission'   => Picoseg::Timestamp,
  'decommission' => Picoseg::Timestamp,
}]
