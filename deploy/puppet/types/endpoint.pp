# @summary A remote side: an address, a prefix, a host name, `*.example.com`, `@LIST`, or `any` as the only entry.
type Picoseg::Endpoint = Pattern[/\A[^\s#]+\z/]
