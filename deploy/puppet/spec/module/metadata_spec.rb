# frozen_string_literal: true

require 'json'

RSpec.describe 'the module' do
  let(:root) { File.expand_path('../..', __dir__) }
  let(:metadata) { JSON.parse(File.read(File.join(root, 'metadata.json'))) }

  it 'says what a module has to say of itself' do
    expect(metadata).to include('name', 'version', 'author', 'summary', 'license', 'source', 'dependencies')
    expect(metadata['name']).to match(%r{\A[a-z0-9]+-picoseg\z})
    expect(metadata['version']).to match(%r{\A\d+\.\d+\.\d+\z})
    expect(metadata['summary'].length).to be <= 144
    expect(metadata['dependencies']).to eq([])
  end

  it 'is for this Puppet' do
    range = metadata['requirements'].find { |one| one['name'] == 'puppet' }['version_requirement']
    parts = range.split.each_slice(2).map { |operator, version| "#{operator} #{version}" }
    expect(Gem::Requirement.new(parts)).to be_satisfied_by(Gem::Version.new(Puppet.version))
  end

  it 'tells in its change log what is in this version' do
    expect(File.read(File.join(root, 'CHANGELOG.md'))).to include("## [#{metadata['version']}]")
  end
end
