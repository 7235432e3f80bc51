# @summary A time in which a service is closed although a window says open.
type Picoseg::Except = Struct[{
  'open'  => Picoseg::Timestamp,
  'close' => Picoseg::Timestamp,
}]
