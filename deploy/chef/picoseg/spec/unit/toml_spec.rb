# frozen_string_literal: true

require_relative '../spec_helper'
require_relative '../../libraries/toml'
require_relative '../../libraries/files'
require 'json'
require 'open3'

# What a reader of TOML that is none of ours makes of texts: Python's, of 3.11 or later.
module Reader
  PROGRAM = 'import json, sys, tomllib; print(json.dumps([tomllib.loads(t) for t in json.load(sys.stdin)], default=str))'

  def self.read(texts)
    said, status = Open3.capture2e('python3', '-c', PROGRAM, stdin_data: JSON.generate(texts))
    raise said unless status.success?

    JSON.parse(said)
  end
end

HOSTILE = [
  '', '"', '"""', "'", '\\', '\\"', "x\"\nstate = \"commissioned\"\n", "x\r\n[[egress]]\r\n", "]\n[lifetime]", '# no comment',
  "\u0000\u0001\u001f\u007f\u0085\u2028\u2029\ufeff", "\t\b\f", 'Müller & Söhne, 株式会社 🔒', "\#{1 + 1} <%= 1 %>", '$(id) `id`',
  '2026-01-01T00:00:00Z', 'true', '1', '\\u0041', '%{path} %s'
].freeze

describe PicosegCookbook::Toml do
  def read(*tables)
    Reader.read(tables.map { |table| described_class.document(table) })
  end

  it 'gives back every string as it was, wherever it stands' do
    tables = HOSTILE.map do |one|
      { 'provider' => one, 'compliance' => [one, one], 'egress' => [{ 'subject' => { 'exe' => one }, 'to' => [one] }],
        'teardown' => { 'watch' => one } }
    end
    expect(read(*tables)).to eq(tables)
  end

  it 'gives back random strings as they were' do
    chance = Random.new(4747)
    pool = "\"'\\\n\r\t[]{}=#,.\u0000\u001b\u007f\u009b aä🔒\u2028".chars
    tables = Array.new(2000) { Array.new(chance.rand(12)) { pool.sample(random: chance) }.join }
                  .map { |text| { text => text, 'roles' => { text => [text] }, 'list' => [{ text => text }] } }
    expect(read(*tables)).to eq(tables)
  end

  it 'makes no table of a key' do
    tables = HOSTILE.map { |one| { one => { one => 1 } } }
    expect(read(*tables)).to eq(tables)
  end

  it 'refuses what is no text' do
    expect { described_class.document('provider' => "\xff") }.to raise_error(ArgumentError, /UTF-8/)
  end

  it 'writes times bare, and only times' do
    text = described_class.document('lifetime' => { commission: '2026-01-01T00:00:00Z', decommission: "2026-01-01T00:00:00Z\n" })
    expect(text).to eq("\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\ndecommission = \"2026-01-01T00:00:00Z\\n\"\n")
    text = described_class.document('open' => Time.utc(2026, 1, 1), 'close' => Date.new(2026, 1, 2), 'owner' => '2026-01-01')
    expect(text).to eq("open = 2026-01-01T00:00:00Z\nclose = 2026-01-02\nowner = \"2026-01-01\"\n")
  end

  it 'puts plain values before tables, and a subject on one line' do
    text = described_class.document('lifetime' => { 'open' => 'x' }, 'subject' => { 'unit' => 'u' }, 'owner' => 'last')
    expect(text).to eq("subject = { unit = \"u\" }\nowner = \"last\"\n\n[lifetime]\nopen = \"x\"\n")
  end

  it 'writes an empty list, and leaves out what is not given' do
    expect(described_class.document('window' => [], 'owner' => nil, 'dns' => false)).to eq("window = []\ndns = false\n")
  end
end

describe PicosegCookbook::Files do
  it 'makes one line of an entry' do
    text = described_class.list('x', ['192.0.2.1', "# of the\toffice"])
    expect(text).to eq("#{described_class::HEADER}192.0.2.1\n# of the\toffice\n")
    ["192.0.2.1\n0.0.0.0/0", "a\r", "a\u0000"].each do |entry|
      expect { described_class.list('x', [entry]) }.to raise_error(ArgumentError, /list x/)
    end
  end

  it 'knows which settings need a restart' do
    Tempfile.create('settings') do |file|
      file.write("# log_group = 1\n[attempts]\nlog_group = 4747 # ours\nretain = \"1d\"\n[paths]\nlists = \"/l\"\n")
      file.close
      same = { 'attempts' => { 'log_group' => 4747, 'retain' => '2d' }, 'paths' => { 'lists' => '/m' } }
      expect(described_class.restart?(file.path, described_class.toml(same))).to be(false)
      [{ 'log_group' => 1 }, {}].each do |attempts|
        expect(described_class.restart?(file.path, described_class.toml('attempts' => attempts))).to be(true)
      end
      expect(described_class.restart?('/nowhere', described_class.toml({}))).to be(false)
      expect(described_class.restart?('/nowhere', described_class.toml('paths' => { 'state' => '/s' }))).to be(true)
    end
  end
end
