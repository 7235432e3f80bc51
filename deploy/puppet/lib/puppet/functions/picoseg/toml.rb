# frozen_string_literal: true

# @summary Renders a value as TOML, for the right side of `key = value`.
#
# Strings are escaped, so that no text can end its quotes or begin a line of its own. Hashes become inline tables, keys in
# their order; what is `undef` in them is left out. Times are strings here: templates write them as they are.
Puppet::Functions.create_function(:'picoseg::toml') do
  # @param value What to render.
  # @return [String] One line of TOML.
  # @example
  #   picoseg::toml({ 'unit' => 'payments.service' }) # { unit = "payments.service" }
  dispatch :render do
    param 'Variant[String, Integer, Boolean, Array, Hash]', :value
    return_type 'String'
  end

  def render(value)
    case value
    when String then string(value)
    when Integer, true, false then value.to_s
    when Array then "[#{value.map { |entry| render(entry) }.join(', ')}]"
    when Hash then table(value)
    else raise ArgumentError, "picoseg::toml: a #{value.class} has no place in these files"
    end
  end

  def table(pairs)
    pairs = pairs.reject { |_, value| value.nil? }
    return '{}' if pairs.empty?

    "{ #{pairs.map { |key, value| "#{key(key)} = #{render(value)}" }.join(', ')} }"
  end

  def key(name)
    name.to_s.match?(%r{\A[A-Za-z0-9_-]+\z}) ? name.to_s : string(name.to_s)
  end

  def string(text)
    text = text.encode(Encoding::UTF_8)
    raise ArgumentError, 'picoseg::toml: a text is no valid UTF-8' unless text.valid_encoding?

    # What TOML does not allow in quotes: the quote, the backslash, and control characters.
    escaped = text.gsub(%r{["\\\u0000-\u001f\u007f]}) do |char|
      ['"', '\\'].include?(char) ? "\\#{char}" : format('\\u%04X', char.ord)
    end
    "\"#{escaped}\""
  end
end
