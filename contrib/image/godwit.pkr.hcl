# A Packer template: takes a Debian disk image, puts containerd, runc, CRIU and Godwit into it.
#
#   packer init contrib/image && packer build -var image=debian.qcow2 -var password=... contrib/image
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}

variable "image" {
  type        = string
  description = "Disk image to begin with: Debian with containerd 2.0 or later in its packages, root may log in over ssh."
}

variable "password" {
  type      = string
  sensitive = true
}

variable "bin" {
  type        = string
  default     = "bin"
  description = "Directory with Godwit's programs, of `make build`."
}

source "qemu" "node" {
  iso_url          = var.image
  iso_checksum     = "none"
  disk_image       = true
  accelerator      = "kvm"
  memory           = 2048
  format           = "qcow2"
  ssh_username     = "root"
  ssh_password     = var.password
  shutdown_command = "poweroff"
  output_directory = "out/node-image"
}

build {
  sources = ["source.qemu.node"]

  provisioner "shell" {
    inline = [
      "apt-get update",
      "apt-get install -y --no-install-recommends containerd runc criu",
      "mkdir -p /tmp/godwit/contrib",
    ]
  }
  provisioner "file" {
    source      = "${var.bin}"
    destination = "/tmp/godwit/bin"
  }
  provisioner "file" {
    sources     = ["${path.root}", "${path.root}/../systemd"]
    destination = "/tmp/godwit/contrib/"
  }
  # The same script as for a chroot, with the machine itself as the root.
  provisioner "shell" {
    inline = ["/tmp/godwit/contrib/image/bake.sh / /tmp/godwit/bin", "rm -rf /tmp/godwit"]
  }
}
