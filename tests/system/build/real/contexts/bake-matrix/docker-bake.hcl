variable "PREFIX" { default = "pyd-tests-bake" }

function "tag" {
  params = [variant, version]
  result = "${PREFIX}-${variant}:${replace(version, ".", "-")}"
}

group "default" { targets = ["app"] }

target "_common" {
  contexts = { config = "./config" }
  labels   = { "org.example.built-by" = "bake" }
}

target "app" {
  inherits = ["_common"]
  name     = "app-${variant}-${replace(version, ".", "-")}"
  target   = "final"
  matrix = {
    variant = ["plain", "debug"]
    version = ["1.0", "2.0"]
  }
  args = { VARIANT = variant, VERSION = version }
  tags = [tag(variant, version)]
}

target "report" {
  target = "report"
  args   = { VERSION = "1.0" }
  output = ["type=local,dest=./out"]
}
