# Writes the bytes of IN as the array proto_api_descriptors into OUT.
file(READ ${IN} hex HEX)
string(LENGTH "${hex}" n)
math(EXPR n "${n} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "#include \"proto/phalanx/descriptors.h\"\n
const unsigned char proto_api_descriptors[] = {${bytes}};
const size_t proto_api_descriptors_bytes = ${n};\n")
