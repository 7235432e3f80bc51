# @summary An opening inside the lifetime: a recurring one that ends after a duration or at a local time, or an absolute one.
type Picoseg::Window = Variant[
  Struct[{
    Optional['name']     => String[1],
    'cron'               => String[1],
    'duration'           => Picoseg::Duration,
    Optional['timezone'] => String[1],
  }],
  Struct[{
    Optional['name']     => String[1],
    'cron'               => String[1],
    'until'              => Pattern[/\A\d{2}:\d{2}(:\d{2})?\z/],
    Optional['timezone'] => String[1],
  }],
  Struct[{
    Optional['name']     => String[1],
    'open'               => Picoseg::Timestamp,
    'close'              => Picoseg::Timestamp,
  }]
]
