/* ptx_read.cpp - PTX as text -> instructions with numbered registers. */
#include "ptx.h"

#include <algorithm>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace ptx {
typedef std::string string;
typedef std::vector<string> strings;

void unknown(const string &kernel, const string &what)
{
    cuh::fail(cu_site("the plugin's PTX", 0), "%s: what is '%s'?", kernel.c_str(), what.c_str());
}

namespace {
string trim(const string &s)
{
    const size_t a = s.find_first_not_of(" \t\r\n"), b = s.find_last_not_of(" \t\r\n");

    return a == string::npos ? "" : s.substr(a, b - a + 1);
}

/* At every `at` outside brackets; without one: at blanks. */
strings split(const string &s, char at)
{
    strings v;
    string now;
    int depth = 0;

    for (const char c : s) {
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        const bool here = !depth && (at ? c == at : isspace(static_cast<unsigned char>(c)) != 0);
        if (!here) now += c;
        else if (at || !now.empty()) v.push_back(trim(now));
        if (here) now.clear();
    }
    if (!trim(now).empty()) v.push_back(trim(now));
    return v;
}

struct reader {
    kernel k;
    strings params;
    std::vector<std::map<string, int>> scopes;             /* braces of inline assembly have registers of their own */
    std::map<string, int> labels, symbols;
    std::map<uint64_t, int> constants;
    std::vector<string> targets;                           /* of code, of the same length */

    int fresh() { return k.n_registers++; }

    /* "TYPE NAME[COUNT]": its name and bytes. */
    static string declared(const string &text, size_t *bytes)
    {
        const strings w = split(text, 0);
        const size_t bracket = w.back().find('[');

        *bytes = strtoul(w[w.size() - 2].c_str() + 2, NULL, 10) / 8;
        if (bracket != string::npos) *bytes *= strtoul(w.back().c_str() + bracket + 1, NULL, 10);
        return w.back().substr(0, bracket);
    }
    void shared(const string &text)
    {
        const char *const a = strstr(text.c_str(), ".align");
        const size_t align = a ? strtoul(a + 6, NULL, 10) : 1;
        size_t bytes;
        const string name = declared(text, &bytes);

        k.shared = (k.shared + align - 1) / align * align;
        k.addresses.push_back({ symbols[name] = fresh(), k.shared });
        k.shared += bytes;
    }
    int constant(uint64_t v)
    {
        const auto it = constants.find(v);

        if (it != constants.end()) return it->second;
        k.constants.push_back({ fresh(), v });
        return constants[v] = k.constants.back().first;
    }
    int named(const string &name)
    {
        static const char *const special[] = { "%tid.", "%ntid.", "%ctaid.", "%nctaid." };

        for (int i = 0; i < 4; i++)
            if (!name.compare(0, strlen(special[i]), special[i])) return 3 * i + name.back() - 'x';
        if (name == "%laneid") return LANE;
        for (size_t i = scopes.size(); i--;)
            if (scopes[i].count(name)) return scopes[i][name];
        return name[0] == '%' ? scopes[0][name] = fresh() : -1;
    }
    int operand(const string &o)
    {
        const int r = named(o);

        if (r >= 0) return r;
        if (o[0] == '0' && (o[1] == 'f' || o[1] == 'd')) return constant(strtoull(o.c_str() + 2, NULL, 16));
        if (o[0] == '-') return constant(static_cast<uint64_t>(strtoll(o.c_str(), NULL, 0)));
        if (isdigit(static_cast<unsigned char>(o[0]))) return constant(strtoull(o.c_str(), NULL, 0));
        if (symbols.count(o)) return symbols[o];
        for (size_t i = 0; i < params.size(); i++) {
            if (params[i] != o) continue;
            k.param_addresses.push_back({ fresh(), static_cast<unsigned>(i) });
            return symbols[o] = k.param_addresses.back().first;
        }
        if (o != "cu_dyn_shared_") unknown(k.name, o);
        return symbols[o] = k.dynamic = fresh();
    }
    void operands(const string &o, std::vector<int> *to)
    {
        if (o[0] != '{') to->push_back(operand(o));
        else for (const string &e : split(o.substr(1, o.size() - 2), ',')) to->push_back(operand(e));
    }
    void address(const string &o, inst *i)                 /* [base], [base+offset] */
    {
        const size_t plus = o.find('+');

        if (o[0] != '[' || i->number) unknown(k.name, i->text);
        i->s.push_back(operand(trim(o.substr(1, std::min(plus, o.size() - 1) - 1))));
        if (plus != string::npos) i->number = strtol(o.c_str() + plus + 1, NULL, 0);
    }

    bool computes(inst *i, const strings &m, const strings &o);
    bool moves(inst *i, const string &name, const strings &m, const strings &o);
    void statement(string st);
    void body(const string &text);
};

/* Those whose first operand is the answer and whose others are values. */
bool reader::computes(inst *i, const strings &m, const strings &o)
{
    static const struct { const char *name, *with; ptx::op op; } known[] = {
        { "mov", "", MOV }, { "cvta", "to", MOV }, { "add", "f16x2", ADD_H2 }, { "add", "", ADD }, { "sub", "f16x2", SUB_H2 }, { "sub", "", SUB },
        { "mul", "f16x2", MUL_H2 }, { "mul", "wide", MUL_WIDE }, { "mul", "hi", MUL_HI }, { "mul", "lo", MUL_LO }, { "mul", "f32", MUL_LO }, { "mad", "lo", MAD_LO },
        { "fma", "f16x2", FMA_H2 }, { "fma", "f32", FMA }, { "div", "", DIV }, { "rem", "", REM }, { "min", "", MIN }, { "max", "", MAX }, { "neg", "", NEG },
        { "abs", "", ABS }, { "and", "", AND }, { "or", "", OR }, { "xor", "", XOR }, { "not", "", NOT }, { "shl", "", SHL }, { "shr", "", SHR }, { "setp", "", SETP },
        { "selp", "", SELP }, { "cvt", "", CVT }, { "bfi", "", BFI }, { "brev", "", BREV }, { "bfind", "shiftamt", BFIND }, { "clz", "", CLZ }, { "popc", "", POPC },
        { "prmt", "b32", PRMT }, { "lop3", "", LOP3 }, { "copysign", "", COPYSIGN }, { "sqrt", "rn", SQRT }, { "rcp", "rn", RCP }, { "ex2", "approx", EX2 },
        { "vote", "ballot", VOTE }, { "redux", "add", REDUX }, { "redux", "or", REDUX },
    };
    static const char *const compares[] = { "eq", "ne", "lt", "le", "gt", "ge", "num", "nan", "equ", "neu", "ltu", "leu", "gtu", "geu" };
    const auto has = [&m](const char *w) { return std::find(m.begin(), m.end(), w) != m.end(); };

    for (const auto &e : known) {
        if (m[0] != e.name || (*e.with && !has(e.with))) continue;
        i->op = e.op;
        for (size_t j = 0; j < o.size(); j++) operands(o[j], j ? &i->s : &i->d);
        i->parts = i->d.size() > 1;
        i->how = has("or");
        if (i->op == CVT) i->to = m[m.size() - 2], i->from = m.back();
        if (i->op == EX2 && !has("ftz")) return false;
        if (i->op != SETP) return true;
        i->how = static_cast<int>(std::find(compares, compares + 14, m[1]) - compares);
        return i->how < 14 && m.size() == 3;
    }
    return false;
}

/* Memory, other lanes, other threads, control. */
bool reader::moves(inst *i, const string &name, const strings &m, const strings &o)
{
    const auto has = [&m](const char *w) { return std::find(m.begin(), m.end(), w) != m.end(); };
    const bool ld = m[0] == "ld", st = m[0] == "st";

    i->space = has("shared") ? SHARED : has("param") ? PARAM : GLOBAL;
    if (ld || st) {
        i->op = ld ? LD : ST;
        operands(o[st], &i->d);
        address(o[ld], i);
        return (has("shared") || has("param") || has("global")) && i->d.size() == (has("v4") ? 4u : has("v2") ? 2u : 1u);
    }
    if (m[0] == "atom") {
        i->op = ATOM;
        i->how = has("or");
        operands(o[0], &i->d);
        address(o[1], i);
        operands(o[2], &i->s);
        return (has("add") || has("or")) && i->bits == 32;
    }
    if (name == "shfl.sync.bfly.b32") {                    /* d|p, value, lanes, clamp, mask */
        i->op = SHFL;
        for (const string &d : split(o[0], '|')) operands(d, &i->d);
        for (size_t j = 1; j < 5; j++) operands(o[j], &i->s);
        return true;
    }
    if (name == "bar.sync" || name == "bar.red.or.pred" || name == "bar.warp.sync") {
        i->op = name == "bar.sync" ? BAR : name == "bar.warp.sync" ? BAR_WARP : BAR_RED;
        if (i->op == BAR_RED) operands(o[0], &i->d);
        if (i->op != BAR) operands(o.back(), &i->s);
        return i->op == BAR_WARP || o[i->op == BAR_RED] == "0";
    }
    if (m[0] == "bra" || name == "ret") {
        i->op = name == "ret" ? RET : BRA;
        if (i->op == BRA) targets.back() = o[0];
        return true;
    }
    if (name == "cp.async.cg.shared.global") {             /* [to], [from], 16, bytes that are read */
        i->op = CP_ASYNC;
        operands(trim(o[0].substr(1, o[0].size() - 2)), &i->d);
        address(o[1], i);
        operands(o.back(), &i->s);
        return o.size() == 4 && o[2] == "16";
    }
    if (name == "cp.async.commit_group" || name == "cp.async.wait_group") {
        i->op = o.empty() ? CP_COMMIT : CP_WAIT;
        if (!o.empty()) i->number = strtol(o[0].c_str(), NULL, 0);
        return true;
    }
    if (m[0] == "ldmatrix") {
        i->op = LDMATRIX;
        i->trans = has("trans");
        operands(o[0], &i->d);
        address(o[1], i);
        return has("sync") && has("aligned") && has("m8n8") && has("shared") && has("b16") && i->d.size() == (has("x4") ? 4u : has("x2") ? 2u : 1u);
    }
    i->op = MMA;
    i->bf16 = name == "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
    if (!i->bf16 && name != "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32") return false;
    for (size_t j = 0; j < 4; j++) operands(o[j], j ? &i->s : &i->d);
    return i->d.size() == 4 && i->s.size() == 10;
}

void reader::statement(string st)
{
    inst i = inst();

    std::replace_if(st.begin(), st.end(), [](char c) { return isspace(static_cast<unsigned char>(c)) != 0; }, ' ');
    st = i.text = trim(st);
    if (!st.compare(0, 5, ".reg ") && st.find('<') == string::npos) {
        for (const string &n : split(st.substr(st.find(' ', 5)), ',')) scopes.back()[n] = fresh();
        return;
    }
    if (!st.compare(0, 8, ".shared ")) shared(st);
    if (st.empty() || st[0] == '.') return;
    if (st[0] == '@') {
        i.unless = st[1] == '!';
        i.pred = named(st.substr(1 + i.unless, st.find(' ') - 1 - i.unless));
        st = trim(st.substr(st.find(' ')));
    }
    const string name = st.substr(0, st.find(' '));
    const strings m = split(name, '.'), o = name == st ? strings() : split(st.substr(name.size()), ',');
    const string &type = m.back();
    const bool bf = !type.compare(0, 2, "bf");

    i.type = type == "pred" ? 'p' : bf ? 'g' : type[0];
    i.bits = type == "pred" ? 1 : atoi(type.c_str() + 1 + bf);
    i.rn = name.find(".rn") != string::npos && name.find(".rni") == string::npos;
    i.rni = name.find(".rni") != string::npos;
    i.sat = name.find(".satfinite") != string::npos;
    targets.push_back("");
    if (!computes(&i, m, o) && !moves(&i, name, m, o)) unknown(k.name, i.text);
    k.code.push_back(i);
}

void reader::body(const string &text)
{
    string now;
    int depth = 0;

    scopes.resize(1);
    for (const char c : text) {
        const bool begins = trim(now).empty();
        if (begins && c == '{') scopes.push_back({});
        else if (begins && c == '}') scopes.pop_back();
        else if (c == ';' && !depth) statement(now), now.clear();
        else if (c == ':' && now.find_first_of(".%") == string::npos) labels[trim(now)] = static_cast<int>(k.code.size()), now.clear();
        else {
            depth += c == '{' ? 1 : c == '}' ? -1 : 0;
            now += c;
        }
    }
    statement("ret");
    for (size_t i = 0; i < k.code.size(); i++) {
        if (k.code[i].op != BRA) continue;
        if (!labels.count(targets[i])) unknown(k.name, k.code[i].text);
        k.code[i].number = labels[targets[i]];
    }
}
}

std::vector<kernel> read(const string &text)
{
    std::vector<kernel> all;
    strings shared;                                        /* of the module: each kernel has those that it names */
    size_t at = 0;

    while ((at = text.find("\n.shared ", at)) != string::npos) {
        shared.push_back(text.substr(at + 1, text.find(';', at) - at - 1));
        at++;
    }
    for (at = 0; (at = text.find(".entry ", at)) != string::npos;) {
        const size_t open = text.find('(', at), close = text.find(')', open), begin = text.find('{', close);
        size_t end = begin, bytes;
        reader r;

        for (int depth = 0; end < text.size(); end++) {
            depth += text[end] == '{' ? 1 : text[end] == '}' ? -1 : 0;
            if (!depth) break;
        }
        const string body = text.substr(begin + 1, end - begin - 1);
        r.k.name = trim(text.substr(at + 7, open - at - 7));
        for (const string &p : split(text.substr(open + 1, close - open - 1), ',')) {
            r.params.push_back(reader::declared(p, &bytes));
            r.k.params.push_back(bytes);
        }
        for (const string &s : shared)
            if (at > text.find(s) && body.find(reader::declared(s, &bytes)) != string::npos) r.shared(s);
        r.body(body);
        all.push_back(r.k);
        at = end;
    }
    return all;
}
}
