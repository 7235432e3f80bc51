# @summary Ports and their protocol: `443/tcp`, `8000-8100/udp`, `*/tcp` or `icmp`.
type Picoseg::Port = Pattern[/\A(\*|[0-9]{1,5}(-[0-9]{1,5})?)\/(tcp|udp)\z/, /\Aicmp\z/]
