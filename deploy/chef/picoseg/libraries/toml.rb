# frozen_string_literal: true

require 'time'

module PicosegCookbook
  # TOML from plain values. Every character that could end a string is escaped, so no value can become a key, a table or a
  # comment. What a value means is not judged here: `picoseg check` does that on the text, with line and column.
  module Toml
    # Times are bare in TOML. What looks like one is one; everything else stays a string, and `picoseg check` says so.
    TIMES = %w[commission decommission open close].freeze
    TIME = /\A\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})?)?\z/.freeze
    BARE_KEY = /\A[A-Za-z0-9_-]+\z/.freeze
    SHORT = { "\b" => '\b', "\t" => '\t', "\n" => '\n', "\f" => '\f', "\r" => '\r', '"' => '\"', '\\' => '\\\\' }.freeze
    ESCAPED = /[\u0000-\u001f"\\\u007f-\u009f]/.freeze

    module_function

    # A document. Keys with plain values come first: behind a table they would belong to it.
    def document(table)
      arrays, others = given(table).partition { |_, value| tables?(value) }
      tables, plain = others.partition { |key, value| section?(key, value) }
      text = plain.map { |key, value| line(key, value) }
      text += tables.map { |key, value| "\n[#{bare(key)}]\n#{lines(value)}" }
      text += arrays.flat_map { |key, value| value.map { |entry| "\n[[#{bare(key)}]]\n#{lines(entry)}" } }
      text.join
    end

    def quoted(text)
      text = text.dup.force_encoding(Encoding::UTF_8) if text.encoding == Encoding::BINARY
      text = text.encode(Encoding::UTF_8)
      raise ArgumentError, "a value is not text in UTF-8: #{text.inspect}" unless text.valid_encoding?

      "\"#{text.gsub(ESCAPED) { |one| SHORT[one] || format('\u%04x', one.ord) }}\""
    end

    def given(table)
      table.to_h.compact.transform_keys(&:to_s)
    end

    def lines(table)
      given(table).map { |key, value| line(key, value) }.join
    end

    def line(key, value)
      "#{bare(key)} = #{rendered(key, value)}\n"
    end

    def rendered(key, value)
      case value
      when true, false, Integer, Float then value.to_s
      when Time, Date then value.iso8601
      when Hash then inline(value)
      when Array then "[#{value.map { |entry| rendered('', entry) }.join(', ')}]"
      else word(key, value.to_s)
      end
    end

    def inline(table)
      pairs = given(table).map { |key, value| "#{bare(key)} = #{rendered(key, value)}" }
      pairs.empty? ? '{}' : "{ #{pairs.join(', ')} }"
    end

    # A string, unless its key wants a time and it is one.
    def word(key, text)
      TIMES.include?(key) && text.match?(TIME) ? text : quoted(text)
    end

    def bare(key)
      key.match?(BARE_KEY) ? key : quoted(key)
    end

    def table?(value)
      value.is_a?(Hash)
    end

    # A subject stands on one line, as people write it.
    def section?(key, value)
      table?(value) && key != 'subject'
    end

    def tables?(value)
      value.is_a?(Array) && !value.empty? && value.all? { |entry| table?(entry) }
    end
  end
end
