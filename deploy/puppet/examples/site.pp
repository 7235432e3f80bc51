# Two services, a segment around one of their units, and a list.
class { 'picoseg':
  attempts => { 'retain' => '730d' },
  metrics  => { 'listen' => '127.0.0.1:9477' },
}

picoseg::list { 'stripe-api':
  entries => ['198.51.100.0/24', '2001:db8:1::/64'],
}

picoseg::service { 'stripe':
  provider    => 'Stripe, Inc.',
  owner       => 'payments@example.com',
  description => 'Card payments',
  ticket      => 'SEC-1423',
  compliance  => ['PCI-DSS'],
  lifetime    => {
    'commission'   => '2026-01-01T00:00:00Z',
    'decommission' => '2036-12-31T00:00:00Z',
  },
  window      => [
    { 'name' => 'office', 'cron' => '0 9 * * Mon-Fri', 'duration' => '9h', 'timezone' => 'Europe/Berlin' },
    { 'open' => '2026-02-01T22:00:00Z', 'close' => '2026-02-02T02:00:00Z' },
  ],
  except      => [{ 'open' => '2026-12-24T00:00:00+01:00', 'close' => '2026-12-27T00:00:00+01:00' }],
  egress      => [{
      'subject' => { 'unit' => 'payments.service' },
      'to'      => ['@stripe-api', 'api.stripe.com'],
      'ports'   => ['443/tcp'],
      'tls'     => 'required',
      'windows' => ['office'],
  }],
  ingress     => [{
      'subject' => { 'unit' => 'payments-webhook.service' },
      'from'    => ['203.0.113.0/24'],
      'ports'   => ['8443/tcp'],
  }],
  teardown    => { 'watch' => '365d' },
}

# What has ended stays as a record, and its provider stays refused and watched.
picoseg::service { 'old-gateway':
  ensure   => decommissioned,
  provider => 'Old Gateway Ltd',
  owner    => 'payments@example.com',
  lifetime => {
    'commission'   => '2024-01-01T00:00:00Z',
    'decommission' => '2036-01-01T00:00:00Z',
  },
  egress   => [{
      'subject' => { 'unit' => 'payments.service' },
      'to'      => ['192.0.2.0/24'],
      'ports'   => ['443/tcp'],
  }],
}

picoseg::segment { 'payments':
  subject => { 'unit' => 'payments.service' },
  allow   => [
    { 'direction' => 'egress', 'to' => ['10.0.0.0/8'], 'ports' => ['5432/tcp'] },
    { 'direction' => 'ingress', 'from' => ['10.1.0.0/28'], 'ports' => ['8080/tcp', 'icmp'] },
  ],
}
