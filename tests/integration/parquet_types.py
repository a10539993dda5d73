"""Every type that PostgreSQL brings, with values of it at the edges, and how Parquet keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A type as a table declares it."""

    type: str
    arrow: str
    duckdb: str
    values: tuple[str, ...]
    """Literals."""

    @property
    def text(self) -> bool:
        """Kept as Postgres's own text."""
        return self.arrow == "string"


def _text(declared: str, *values: str) -> Case:
    return Case(declared, "string", "VARCHAR", values)


CASES = [
    Case("smallint", "int16", "SMALLINT", ("-32768", "0", "32767")),
    Case("integer", "int32", "INTEGER", ("-2147483648", "2147483647")),
    Case("bigint", "int64", "BIGINT", ("-9223372036854775808", "9223372036854775807")),
    Case("oid", "uint32", "UINTEGER", ("0", "4294967295")),
    Case("xid", "uint32", "UINTEGER", ("3", "4294967295")),
    Case("cid", "uint32", "UINTEGER", ("0", "4294967295")),
    Case("xid8", "uint64", "UBIGINT", ("3", "18446744073709551615")),
    Case("boolean", "bool", "BOOLEAN", ("true", "false")),
    Case("real", "float", "FLOAT", ("0.1", "-0", "3.4028235e38", "1e-45", "Infinity", "-Infinity")),
    Case(
        "double precision",
        "double",
        "DOUBLE",
        ("0.1", "-0", "1.7976931348623157e308", "5e-324", "Infinity", "123456789.123456789"),
    ),
    Case("numeric(12,2)", "decimal128(12, 2)", "DECIMAL(12,2)", ("0", "-9999999999.99", "9999999999.99", "0.1")),
    Case("numeric(38,10)", "decimal128(38, 10)", "DECIMAL(38,10)", ("9" * 28 + "." + "9" * 10, "-1e-10")),
    Case("numeric(5,-2)", "decimal128(7, 0)", "DECIMAL(7,0)", ("9999900", "149", "-150")),
    Case("numeric(3,5)", "decimal128(5, 5)", "DECIMAL(5,5)", ("0.00999", "-0.00001")),
    # DuckDB has no decimal of more than 38 digits and reads one as its nearest double: docs/formats.md.
    Case("numeric(76,20)", "decimal256(76, 20)", "DOUBLE", ("9" * 56 + "." + "9" * 20, "-1e-20")),
    _text("numeric", "0.10", "NaN", "Infinity", "1" * 300 + ".5", "1e-300"),
    _text("numeric(200,2)", "0.1", "NaN", "9" * 198 + ".99"),
    Case("date", "date32[day]", "DATE", ("0001-01-01", "1969-12-31", "2024-02-29", "9999-12-31")),
    Case("time", "time64[us]", "TIME", ("00:00", "23:59:59.999999", "12:34:56.7")),
    Case(
        "timestamp",
        "timestamp[us]",
        "TIMESTAMP",
        ("0001-01-01 00:00", "1969-12-31 23:59:59.999999", "2024-02-29 12:00:00.1", "9999-12-31 23:59:59.999999"),
    ),
    Case("timestamp(0)", "timestamp[us]", "TIMESTAMP", ("2024-02-29 12:00:00.5",)),
    Case(
        "timestamptz",
        "timestamp[us, tz=UTC]",
        "TIMESTAMP WITH TIME ZONE",
        ("0001-01-01 00:00+00", "2024-03-31 02:30+01", "9999-12-31 23:59:59.999999+00"),
    ),
    _text("timetz", "00:00+00", "24:00:00-15:59", "12:34:56.789+05:30"),
    _text("interval", "1 year -2 mons 3 days 04:05:06.789", "-178000000 years", "0"),
    Case("bytea", "binary", "BLOB", ("\\x00ff", "\\x", "\\x00ff5c6122", "\\x" + "ab" * 5000)),
    Case(
        "uuid",
        "extension<arrow.uuid>",
        "UUID",
        ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"),
    ),
    Case(
        "json", "extension<arrow.json>", "JSON", ('{"a" : 1.0}', '{"a" :\n [1.0, "x, \\"y\\""]}', "null", '"\\u00e9"')
    ),
    Case("jsonb", "extension<arrow.json>", "JSON", ('{"a": [1.50, null]}', "null", "1e400")),
    _text("text", 'a "b", c\\d', "", " ", "NULL", "\\.", 'a,"b"\r\n\\c\t', "\ufeffgrün 𝄞", "\x01"),
    _text("varchar(20)", "", "x,y", "ü" * 20),
    _text("char(5)", "", "ab", 'a"b'),
    _text('"char"', "a", "", '"'),
    _text("name", "x", 'a "b", c'),
    _text("money", "-92233720368547758.08", "1234.50"),
    _text("inet", "10.0.0.1/8", "::1"),
    _text("cidr", "10.0.0.0/8", "2001:db8::/32"),
    _text("macaddr", "08:00:2b:01:02:03"),
    _text("macaddr8", "08:00:2b:01:02:03:04:05"),
    _text("bit(3)", "101"),
    _text("varbit", "", "10101"),
    _text("xml", "<a b='\"'>x,\ny</a>"),
    _text("tsvector", "a:1A 'b c':2,3", ""),
    _text("tsquery", "a & !'b c'"),
    _text("jsonpath", '$."a"[*] ? (@ > 1)'),
    _text("point", "(1.5,-2)", "(Infinity,NaN)"),
    _text("line", "{1,-2,3}"),
    _text("lseg", "[(1,2),(3,4)]"),
    _text("box", "(3,4),(1,2)"),
    _text("path", "((1,2),(3,4))", "[(1,2),(3,4)]"),
    _text("polygon", "((1,2),(3,4),(5,6))"),
    _text("circle", "<(1,2),3>"),
    _text("int4range", "[1,5)", "empty", "(,)"),
    _text("int8range", "[1,5)"),
    _text("numrange", "[1.0,5)"),
    _text("daterange", "[2024-01-01,infinity)"),
    _text("tsrange", '["2024-01-01 00:00:00",)'),
    _text("tstzrange", '["2024-01-01 00:00:00+00",)'),
    _text("int4multirange", "{[1,5),[7,9)}", "{}"),
    _text("int8multirange", "{[1,5)}"),
    _text("nummultirange", "{[1.0,5)}"),
    _text("datemultirange", "{[2024-01-01,2024-01-02)}"),
    _text("tsmultirange", '{["2024-01-01 00:00:00",)}'),
    _text("tstzmultirange", '{["2024-01-01 00:00:00+00",)}'),
    _text("pg_lsn", "16/B374D848"),
    _text("pg_snapshot", "10:20:10,14"),
    _text("txid_snapshot", "10:20:10,14"),
    _text("tid", "(1,2)"),
    _text("aclitem", "postgres=r/postgres"),
    _text("refcursor", "a,b"),
    _text("regclass", "pg_class"),
    _text("regcollation", '"C"'),
    _text("regconfig", "simple"),
    _text("regdictionary", "simple"),
    _text("regnamespace", "pg_catalog"),
    _text("regoper", "||/"),
    _text("regoperator", "=(integer,integer)"),
    _text("regproc", "pg_backend_pid"),
    _text("regprocedure", "sum(integer)"),
    _text("regrole", "postgres"),
    _text("regtype", "integer", "timestamp with time zone"),
    _text("mood", "sad", 'glad, "very"', "NULL"),
    _text("pair", '(1,"x, y")', "(,)"),
    _text("floatrange", "[1.5,2.5]"),
]

OWN_TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'glad, "very"', 'NULL');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE floatrange AS RANGE (subtype = float8);
"""

BEYOND = {
    "numeric(12,2)": ("NaN",),
    "date": ("4713-01-01 BC", "5874897-12-31", "infinity", "-infinity"),
    "time": ("24:00:00",),
    "timestamp": ("4713-01-01 00:00 BC", "294276-12-31 23:59:59.999999", "infinity", "-infinity"),
    "timestamptz": ("4713-01-01 00:00+00 BC", "294276-12-31 23:59:59.999999+00", "infinity", "-infinity"),
}
"""Values that JSON and CSV keep as they are, and for which Parquet refuses the row."""

EXTENSIONS = [
    _text("hstore", '"a b"=>"1, \\"x\\"", c=>NULL', ""),
    _text("citext", 'A "b", c', ""),
]
"""Types that an extension brings, which not every server has."""

WITHOUT_INPUT = {
    *("gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies", "pg_mcv_list"),
    *("pg_ndistinct", "pg_node_tree"),
}
"""Types of Postgres's own bookkeeping: no table can be filled with them."""
